//go:build !linux

package auto

func systemOpeners() []opener { return nil }
