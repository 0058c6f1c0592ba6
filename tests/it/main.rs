//! The promises of the contract, seen from outside: real processes, a real broker, a real PostgreSQL.
