"""Server side: gateway, intake, Flower strategies. Import the submodule you need."""
