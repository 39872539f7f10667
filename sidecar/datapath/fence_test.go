package datapath

import (
	"testing"
	"testing/synctest"
	"time"
)

// A fence is open until it says, and who follows it knows beforehand.
func TestFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFence()
		var left []time.Duration
		f.Follow(func(until time.Time) { left = append(left, time.Until(until)) })
		if f.Open() {
			t.Error("a new one is open")
		}
		f.Extend(f.Now(), 2*time.Second)
		time.Sleep(1999 * time.Millisecond)
		if !f.Open() {
			t.Error("it shut too early")
		}
		time.Sleep(time.Millisecond)
		if f.Open() {
			t.Error("it did not shut")
		}
		f.Extend(f.Now()-time.Second, 2*time.Second) // asked for a second ago
		f.Close()
		f.Follow(nil)
		f.Extend(f.Now(), time.Hour)
		if !f.Open() {
			t.Error("it did not open again")
		}
		want := []time.Duration{0, 2 * time.Second, time.Second}
		if len(left) != 4 || left[0] != want[0] || left[1] != want[1] || left[2] != want[2] || left[3] > 0 {
			t.Errorf("told %v, want %v and then that it is shut", left, want)
		}
		if !(*Fence)(nil).Open() {
			t.Error("no fence is shut")
		}
	})
}
