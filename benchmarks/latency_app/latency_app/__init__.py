"""An app whose tasks do nothing, to see what they cost all the same."""
