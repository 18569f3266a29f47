"""The class index of ignored pixels."""

IGNORE_INDEX = 255
