"""What the outside looks like: one Protocol for each kind of store or service, one or more drivers for each."""
