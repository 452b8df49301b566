// Package smalldisk gives tests a file system of a few megabytes that is really
// full when it is full. It is for tests that run as root on Linux; elsewhere there is
// none.
package smalldisk
