//go:build unix

package agent

import (
	"io/fs"
	"syscall"
)

// ownedByRoot says whether root alone decides who may read a file.
func ownedByRoot(f fs.FileInfo) bool {
	st, ok := f.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0
}
