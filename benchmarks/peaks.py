def measured(options, sizes): return None
