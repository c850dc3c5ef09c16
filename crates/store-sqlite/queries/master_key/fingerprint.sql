select master_key_fingerprint from store_state where only = 1
