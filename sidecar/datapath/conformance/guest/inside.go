package guest

import "os"

// Inside says that this is a guest.
func Inside() bool { return os.Getenv("VM_RUN") != "" }
