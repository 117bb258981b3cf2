"""What a released code or a port of it does otherwise than its paper: a subclass a method, which overrides just that.

No setting names these classes: :meth:`dreamstill.methods.Method.variant_of` finds them by the method's settings.
"""
