"""The public test kit: virtual time, a simulated fleet, and what every link must do."""
