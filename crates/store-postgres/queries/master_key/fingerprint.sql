select fingerprint from admin.master_key where no = 1
