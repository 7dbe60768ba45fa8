"""What people and other programs get: terminal text, tables, reports. Everything untrusted is escaped here."""
