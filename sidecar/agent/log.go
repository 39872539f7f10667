package agent

import (
	"log/slog"
	"os"

	"github.com/tenantwire/tenantwire/sidecar/logs"
)

// NewLog makes the process's log, on the standard error.
func NewLog(level, format string) (*slog.Logger, error) { return logs.New(os.Stderr, level, format) }
