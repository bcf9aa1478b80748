"""`fastbn.BatchNorm`: the layer, its state dicts, and masks made of sequence lengths."""
