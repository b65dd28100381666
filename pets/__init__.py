"""The trained networks on one's own photographs: the `pets` command and a page in the browser."""
