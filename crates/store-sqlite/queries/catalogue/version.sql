select version from catalogue where only = 1
