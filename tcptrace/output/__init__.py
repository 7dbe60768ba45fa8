"""What people and programs get: terminal text, tables, reports. Everything untrusted is escaped here."""
