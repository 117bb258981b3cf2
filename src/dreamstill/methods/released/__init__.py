"""What an earlier version of a paper, a released code or a port of it does otherwise: one subclass for each method.

No setting names these classes: :meth:`dreamstill.methods.Method.variant_of` finds them by the method's settings.
"""
