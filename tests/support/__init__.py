"""What the tests are made with: the oracle, arrays and files to try, assertions, processes."""
