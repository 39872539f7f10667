package operator

import (
	"os"

	"github.com/go-logr/logr"

	"github.com/tenantwire/tenantwire/sidecar/logs"
)

// NewLog makes the process's log, on the standard error.
func NewLog(level, format string) (logr.Logger, error) {
	l, err := logs.New(os.Stderr, level, format)
	if err != nil {
		return logr.Logger{}, err
	}
	return logr.FromSlogHandler(l.Handler()), nil
}
