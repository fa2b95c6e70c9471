"""The operator's page, Python side: what it shows, how it is fed. Its TypeScript lives in /console."""
