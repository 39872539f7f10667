//go:build !linux

package limits

import "time"

func cpuQuota() quota        { return quota{} }
func cpuTime() time.Duration { return 0 }
