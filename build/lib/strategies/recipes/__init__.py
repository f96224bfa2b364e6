"""The named recipes, one file each."""
