"""The operations behind the commands, as functions that Python programs can call.

Most of them take a :class:`starters.operations.session.Session`, which holds the settings and the identity of one collaborator.
They return models or plain records, and raise :class:`cleanroom.errors.CleanRoomError`.
"""
