//go:build !linux

package privilege

// Raise does nothing where there are no capabilities.
func Raise() error { return nil }

// Drop does nothing where there are no capabilities.
func Drop() error { return nil }
