"""Leads and deals for each tenant."""

from acme_crm.plugin import plugin as plugin
