"""Tools of the developers, which neither the product nor its tests import at run time."""
