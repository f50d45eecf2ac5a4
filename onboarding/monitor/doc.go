// Package monitor watches a server from outside.
package monitor
