"""The checks of ``cleanroom doctor``. They read, and change nothing."""
