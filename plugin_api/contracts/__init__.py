"""One file per capability: public Structs, Protocol, ServiceKey, permission names. Never reloaded."""
