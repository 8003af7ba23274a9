"""The classes of `balsam.api`, one module per noun."""
