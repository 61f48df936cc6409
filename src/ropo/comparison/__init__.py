"""Several methods on the same data with the same budget: the recipe, its runs, and what came of them."""
