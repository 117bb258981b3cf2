"""Methods with the smallest settings that still run, read off the marks on their settings."""

from dreamstill.ranges import Small, marked


def small(cls, **settings):
    """The method, or the variant of it that the settings ask for; what they do not say is as small as its mark."""
    cls = cls.variant_of(settings)
    marks = {name: mark.value for name, mark in marked(cls, Small).items()}
    return cls(**{**marks, **settings})
