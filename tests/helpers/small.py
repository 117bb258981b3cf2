"""Methods with the smallest settings that still run, read off the marks on their settings."""

from dreamstill.ranges import Small, marked

# Of methods whose settings carry no marks yet. To be taken out with the last of them.
UNMARKED = {
    "batch_size": 16, "nz": 8, "width": 4, "bank": 64, "gan_batch": 16, "n_images": 32, "synthesis_batch": 16,
    "iterations": 3,
}  # fmt: skip


def small(cls, **settings):
    """The method, or the variant of it that the settings ask for; what they do not say is as small as its mark."""
    cls = cls.variant_of(settings)
    marks = {name: mark.value for name, mark in marked(cls, Small).items()}
    least = marks or {name: value for name, value in UNMARKED.items() if name in cls.__dataclass_fields__}
    return cls(**{**least, **settings})
