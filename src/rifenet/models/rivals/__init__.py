"""Heads of other papers over the same frozen features, to compare with: one file each, written from its paper."""
