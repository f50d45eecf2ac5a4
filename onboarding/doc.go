// Package onboarding provisions and deprovisions tenants.
package onboarding
