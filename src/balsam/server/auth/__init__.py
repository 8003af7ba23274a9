"""Who is calling: tokens, passwords, what each kind of principal may call, and the login file of single-user mode."""
