"""Metadata rebuilt from the facts of copies (design note 0008): `facts` and `plan` are pure,
`disks` reads data directories, `write` makes a store of a plan."""
