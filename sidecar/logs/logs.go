// Package logs is how all programs write what happens: one line an event, on the standard error. Keys are words in camelCase, durations are
// text with their unit, and a private or preshared key reads "[redacted]" (package key).
package logs

import (
	"fmt"
	"io"
	"log/slog"
)

// The formats.
const (
	JSON = "json" // an object a line
	Text = "text" // key=value
)

// New makes a logger as the flags --log-level and --log-format say.
func New(w io.Writer, level, format string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is not debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: least}
	switch format {
	case JSON:
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case Text:
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--log-format: %q is not json or text", format)
}
