"""Moving files between a workdir and somewhere else: what is sent, how it lands, and the back ends that carry it.

Knows the domain only. The Site's agent uses all of it; the SDK the parts that are the other end of `client:`.
"""
