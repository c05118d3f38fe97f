"""The numbers of the field, and what shows them."""
