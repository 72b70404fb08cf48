"""Networks over flat parameter vectors, action distributions, and the policies that act with them."""
