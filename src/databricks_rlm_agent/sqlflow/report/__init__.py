"""Plans and reports for people: tables, diagrams, one HTML page. Pure."""
