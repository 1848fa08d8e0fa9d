"""The quality rules by the definitions of other tools, for those who must reproduce what such a tool did.

Each lives under a name of its own (`datatrove_...`, `dolma_...`): the same rule measured otherwise is another signal.
"""
