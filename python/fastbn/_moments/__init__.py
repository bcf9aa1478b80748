"""`fastbn.Moments`: measuring arrays, merging, and the value that holds the result."""
