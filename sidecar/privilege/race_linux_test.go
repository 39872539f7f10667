//go:build race

package privilege

func init() { withC = true }
