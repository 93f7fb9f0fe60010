"""Metadata rebuilt from what copies keep (design note 0008): `facts` and `plan` are pure, `disks`
reads data directories, `write` makes a store of a plan."""
