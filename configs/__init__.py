"""Experiments, one commented YAML file each, called ``<agent>_<task>.yaml``."""
