// Package tenant decides: which addresses and ports a member has, which objects contradict each other and which of them keeps
// what it has, what every member of a tunnel is told, and what the objects that the operator owns should say. It is pure: no
// client, no clock and no randomness, so that every replica comes to the same result from the same objects and every rule can be
// tested with a table. Package controller gathers the objects and applies the result; the coordinator streams it.
package tenant
