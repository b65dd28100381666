"""The trained networks on one's own pictures: the `pets` command and the page in the browser."""
