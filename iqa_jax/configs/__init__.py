"""The recipes: `get_config` of each gives a configuration."""
